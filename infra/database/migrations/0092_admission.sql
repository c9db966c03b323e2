-- Which SkyPilot API server was asked for a machine: only its list can tell that the machine is gone.
-- And for which machine, so that SkyPilot's gate admits this one, once.
ALTER TABLE attempts
    ADD COLUMN server        text,
    ADD COLUMN instance_type text NOT NULL DEFAULT '',
    ADD COLUMN admitted_at   timestamptz;
