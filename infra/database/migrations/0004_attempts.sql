-- Machines that were asked of a provider. Each row is written before the provider is asked, so that
-- whatever dies in between, the name under which the machine may exist is known.

CREATE TABLE installation (
    id  text PRIMARY KEY DEFAULT substr(md5(gen_random_uuid()::text), 1, 8),
    one boolean NOT NULL DEFAULT true UNIQUE CHECK (one)
);
INSERT INTO installation DEFAULT VALUES;

CREATE TABLE attempts (
    job_key        text NOT NULL,
    number         integer NOT NULL CHECK (number > 0),
    reservation_id bigint NOT NULL REFERENCES reservations,
    place          text NOT NULL UNIQUE,
    output         text NOT NULL,
    hourly_usd     numeric(12,4) NOT NULL CHECK (hourly_usd > 0),
    region         text NOT NULL,
    requested_at   timestamptz NOT NULL DEFAULT now(),
    submitted_at   timestamptz,
    started_at     timestamptz,
    gone_at        timestamptz,
    error          text,
    provider_usd   numeric(12,4),
    PRIMARY KEY (job_key, number)
);
-- One machine a job: the next is asked for when the last is known to be gone.
CREATE UNIQUE INDEX one_machine_a_job ON attempts (job_key) WHERE gone_at IS NULL;

-- What a job was last offered, so that its next attempt is launched at the price that was reserved.
ALTER TABLE jobs ADD COLUMN quote jsonb;
UPDATE jobs SET quote = jsonb_build_object(
    'launcher', launcher, 'hourly_usd', hourly_usd::text, 'accelerators', '{}'::jsonb,
    'region', 'this machine', 'source', 'NIGHTSHIFT_LOCAL_USD_PER_HOUR');
ALTER TABLE jobs ALTER COLUMN quote SET NOT NULL;

-- Each threshold of a budget is announced once a window.
CREATE TABLE budget_warnings (
    scope     text NOT NULL,
    period    text NOT NULL,
    resets_at timestamptz NOT NULL,
    percent   integer NOT NULL,
    warned_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, period, resets_at, percent)
);
