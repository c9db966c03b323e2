-- A job that nobody works at now is no running one; and which flow run works at a run, or did when
-- its process was killed.

ALTER TABLE jobs DROP CONSTRAINT jobs_state_check;
ALTER TABLE jobs ADD CONSTRAINT jobs_state_check CHECK (
    state IN ('launching', 'running', 'interrupted', 'succeeded', 'failed', 'stopped')
);
ALTER TABLE runs ADD COLUMN flow_run text;
