CREATE TABLE instances (
	sop_instance_uid VARCHAR(64) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	path VARCHAR(512) NOT NULL, 
	bytes BIGINT NOT NULL, 
	received_at DATETIME NOT NULL, 
	calling_ae VARCHAR(16) NOT NULL, 
	"conflict" BOOLEAN NOT NULL, 
	PRIMARY KEY (sop_instance_uid, sha256)
);
CREATE INDEX instances_by_study ON instances (study_instance_uid, received_at);
CREATE INDEX instances_by_arrival ON instances (received_at, study_instance_uid);
CREATE TABLE audit_head (
	log VARCHAR(128) NOT NULL, 
	count INTEGER NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	PRIMARY KEY (log)
);
CREATE TABLE runs (
	study_instance_uid VARCHAR(64) NOT NULL, 
	revision INTEGER NOT NULL, 
	content_digest VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	stage VARCHAR(32) NOT NULL, 
	reason TEXT NOT NULL, 
	attempt INTEGER NOT NULL, 
	faults INTEGER NOT NULL, 
	postponements INTEGER NOT NULL, 
	next_try_at DATETIME, 
	executor_id VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	changed_at DATETIME NOT NULL, 
	PRIMARY KEY (study_instance_uid, revision), 
	UNIQUE (study_instance_uid, content_digest)
);
CREATE TABLE deliveries (
	study_instance_uid VARCHAR(64) NOT NULL, 
	revision INTEGER NOT NULL, 
	destination VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	attempt INTEGER NOT NULL, 
	failures INTEGER NOT NULL, 
	reason TEXT NOT NULL, 
	next_try_at DATETIME, 
	created_at DATETIME NOT NULL, 
	PRIMARY KEY (study_instance_uid, revision, destination)
);
CREATE TABLE delivered_instances (
	study_instance_uid VARCHAR(64) NOT NULL, 
	revision INTEGER NOT NULL, 
	destination VARCHAR(64) NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	path VARCHAR(256) NOT NULL, 
	acknowledged_at DATETIME, 
	dicom_status INTEGER, 
	PRIMARY KEY (study_instance_uid, revision, destination, sop_instance_uid)
);
CREATE TABLE late_priors_told (
	study_instance_uid VARCHAR(64) NOT NULL, 
	revision INTEGER NOT NULL, 
	pet_study_instance_uid VARCHAR(64) NOT NULL, 
	PRIMARY KEY (study_instance_uid, revision, pet_study_instance_uid)
);
CREATE TABLE pet_results (
	study_instance_uid VARCHAR(64) NOT NULL, 
	functional_series_instance_uid VARCHAR(64) NOT NULL, 
	revision INTEGER NOT NULL, 
	patient_id TEXT NOT NULL, 
	issuer TEXT NOT NULL, 
	ct_series_instance_uid VARCHAR(64) NOT NULL, 
	acquired_at VARCHAR(32) NOT NULL, 
	lesion_count INTEGER NOT NULL, 
	segmentation_sop_instance_uid VARCHAR(64) NOT NULL, 
	segmentation_path VARCHAR(256) NOT NULL, 
	registered_at DATETIME NOT NULL, 
	PRIMARY KEY (study_instance_uid, functional_series_instance_uid)
);
CREATE INDEX ix_pet_results_patient_id ON pet_results (patient_id);
CREATE TABLE shadow_comparisons (
	id INTEGER NOT NULL, 
	compared_at DATETIME NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	revision INTEGER NOT NULL, 
	functional_series_instance_uid VARCHAR(64) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	serving_id VARCHAR(128) NOT NULL, 
	serving_weights_sha256 VARCHAR(64) NOT NULL, 
	serving_lesions INTEGER NOT NULL, 
	serving_ml FLOAT NOT NULL, 
	shadow_id VARCHAR(128) NOT NULL, 
	shadow_version VARCHAR(64) NOT NULL, 
	shadow_weights_sha256 VARCHAR(64) NOT NULL, 
	shadow_prior_used BOOLEAN NOT NULL, 
	shadow_lesions INTEGER, 
	shadow_ml FLOAT, 
	dice FLOAT, 
	seconds FLOAT NOT NULL, 
	problem TEXT NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE observed_studies (
	study_instance_uid VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reason TEXT NOT NULL, 
	observed_at DATETIME NOT NULL, 
	PRIMARY KEY (study_instance_uid)
);
CREATE TABLE study_subjects (
	study_instance_uid VARCHAR(64) NOT NULL, 
	patient_id TEXT NOT NULL, 
	issuer TEXT NOT NULL, 
	pet_acquired_at VARCHAR(32), 
	spect_acquired_at VARCHAR(32), 
	PRIMARY KEY (study_instance_uid)
);
CREATE INDEX ix_study_subjects_patient_id ON study_subjects (patient_id);
CREATE TABLE executors (
	executor_id VARCHAR(64) NOT NULL, 
	beat_at DATETIME NOT NULL, 
	PRIMARY KEY (executor_id)
);
