-- Why a run failed, or was interrupted: what its last process said at its end.
ALTER TABLE runs ADD COLUMN error text;
