-- Runs of hooks that failed least are started first.

DROP INDEX hook_runs_due;
CREATE INDEX hook_runs_due ON hook_runs (attempts, due_at) WHERE state IN ('gathering', 'waiting');
