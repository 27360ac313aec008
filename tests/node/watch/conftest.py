"""A node and a PACS, as for the workflow."""

from tests.node.workflow.conftest import new_node, pacs

__all__ = ["new_node", "pacs"]
