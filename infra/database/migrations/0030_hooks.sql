-- Doors for other systems: hooks, what they delivered, and the flow run that each delivery became.

CREATE TABLE hooks (
    name            text PRIMARY KEY,
    form            text NOT NULL CHECK (form IN ('standard', 'github', 'cloudevents')),
    flows           text[] NOT NULL CHECK (cardinality(flows) > 0),
    secret          bytea NOT NULL,     -- encrypted, infra/hooks/secrets.py
    previous_secret bytea,
    previous_until  timestamptz,
    mapping         jsonb NOT NULL,     -- parameter path: Jinja template
    per_minute      integer NOT NULL CHECK (per_minute > 0),
    max_cost        numeric(12, 4),
    debounce        interval NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now()
);

-- One row a flow run; `id` is also Prefect's idempotency key, so that it is started once.
CREATE TABLE hook_runs (
    id         uuid PRIMARY KEY,
    hook       text NOT NULL REFERENCES hooks,
    flow       text NOT NULL,
    parameters json NOT NULL,
    state      text NOT NULL DEFAULT 'waiting'
               CHECK (state IN ('gathering', 'waiting', 'started', 'refused')),
    due_at     timestamptz NOT NULL DEFAULT now(),
    attempts   integer NOT NULL DEFAULT 0,
    flow_run   uuid UNIQUE,
    error      text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((state = 'started') = (flow_run IS NOT NULL))
);
CREATE UNIQUE INDEX hook_runs_gathering ON hook_runs (hook, flow) WHERE state = 'gathering';
CREATE INDEX hook_runs_due ON hook_runs (due_at) WHERE state IN ('gathering', 'waiting');

CREATE TABLE webhook_deliveries (
    id          uuid PRIMARY KEY,
    hook        text NOT NULL REFERENCES hooks,
    key         text NOT NULL,          -- what makes two deliveries the same one
    run         uuid NOT NULL REFERENCES hook_runs DEFERRABLE INITIALLY DEFERRED,
    body        bytea NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (hook, key)
);
CREATE INDEX webhook_deliveries_by_time ON webhook_deliveries (received_at);
CREATE INDEX webhook_deliveries_by_run ON webhook_deliveries (run);

CREATE TABLE hook_audit (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT now(),
    actor  text NOT NULL,
    action text NOT NULL,
    hook   text NOT NULL,
    detail jsonb NOT NULL
);
