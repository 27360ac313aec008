# Sourced: `as_root COMMAND…` runs a command as root, or says why it can't.

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif ! command -v sudo >/dev/null; then
    echo "This needs root and there is no sudo: $*" >&2
    return 1
  elif [ -t 0 ]; then
    sudo "$@"
  else
    sudo -n "$@" # nobody is there to type a password
  fi
}

apt_install() {
  if ! command -v apt-get >/dev/null; then
    echo "No apt-get here. Install these Debian packages' equivalents by hand: $*" >&2
    return 1
  fi
  echo "Installing Debian packages: $*"
  as_root apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
