-- What the privacy of each tenant was spent on: in a run so many noisy means that it was part of.
-- All rounds of a run are written before it begins; those that it did not take part in are taken
-- back when it has ended. A run that never ends has spent all of them.

CREATE TABLE tenant_privacy (
    run_id           text NOT NULL REFERENCES runs (id),
    tenant           text NOT NULL,
    model            text NOT NULL,
    noise_multiplier double precision NOT NULL CHECK (noise_multiplier > 0),
    rounds           integer NOT NULL CHECK (rounds >= 0),
    settled          boolean NOT NULL DEFAULT false,
    created_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, tenant)
);
CREATE INDEX tenant_privacy_by_tenant ON tenant_privacy (tenant);
