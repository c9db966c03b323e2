-- Runs, jobs and the experience that training feeds on. Money is in 0002.

CREATE TABLE runs (
    id          text PRIMARY KEY,
    flow        text NOT NULL,
    parameters  jsonb NOT NULL,
    fingerprint text NOT NULL,
    state       text NOT NULL DEFAULT 'begun' CHECK (state IN ('begun', 'finished', 'failed')),
    begun_at    timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz,
    pinned      jsonb NOT NULL DEFAULT '{}',
    report      jsonb
);
-- At most one begun run of a flow with the same parameters: the next start goes on with it.
CREATE UNIQUE INDEX one_begun_run ON runs (flow, fingerprint) WHERE state = 'begun';

CREATE TABLE jobs (
    key         text PRIMARY KEY,
    run_id      text NOT NULL REFERENCES runs,
    flow_run    text,
    launcher    text NOT NULL,
    spec        jsonb NOT NULL,
    hourly_usd  numeric(12,4) NOT NULL CHECK (hourly_usd >= 0),
    handle      jsonb,
    state       text NOT NULL DEFAULT 'launching'
                CHECK (state IN ('launching', 'running', 'succeeded', 'failed', 'stopped')),
    result      jsonb,
    error       text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    started_at  timestamptz,
    ended_at    timestamptz
);
CREATE INDEX jobs_of_run ON jobs (run_id);

CREATE TABLE interactions (
    id                   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key                  text UNIQUE,
    model                text NOT NULL,
    model_version        text NOT NULL,
    tenant               text NOT NULL DEFAULT 'default',
    prompt               text NOT NULL,
    completion           text NOT NULL,
    prompt_token_ids     integer[] NOT NULL,
    completion_token_ids integer[] NOT NULL,
    logprobs             real[] NOT NULL,
    columns              jsonb NOT NULL DEFAULT '{}',
    personal             jsonb,
    reward               double precision,
    source               text NOT NULL DEFAULT 'served' CHECK (source IN ('served', 'sampled')),
    created_at           timestamptz NOT NULL DEFAULT now(),
    CHECK (cardinality(logprobs) = cardinality(completion_token_ids))
);
CREATE INDEX interactions_by_model ON interactions (model, created_at);

CREATE TABLE feedback (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    interaction_id bigint NOT NULL REFERENCES interactions,
    kind           text NOT NULL CHECK (kind IN ('thumb', 'rating', 'comparison', 'correction')),
    value          double precision,
    correction     text,
    created_at     timestamptz NOT NULL DEFAULT now()
);

-- Which interactions one night trains on, in their order.
CREATE TABLE trajectories (
    run_id         text NOT NULL REFERENCES runs,
    position       integer NOT NULL,
    interaction_id bigint NOT NULL REFERENCES interactions,
    PRIMARY KEY (run_id, position),
    UNIQUE (run_id, interaction_id)
);

-- What a run may train on: answers of these versions with a reward, or feedback with a value, that
-- no other run has trained on.
CREATE FUNCTION usable_interactions(
    of_model text, versions text[], since timestamptz, own_run text
) RETURNS SETOF bigint LANGUAGE sql STABLE AS $$
    SELECT i.id FROM interactions i
    WHERE i.model = of_model AND i.model_version = ANY (versions) AND i.created_at >= since
      AND cardinality(i.completion_token_ids) > 0
      AND (i.reward IS NOT NULL OR EXISTS (
          SELECT FROM feedback f WHERE f.interaction_id = i.id AND f.value IS NOT NULL))
      AND NOT EXISTS (
          SELECT FROM trajectories t WHERE t.interaction_id = i.id AND t.run_id <> own_run)
$$;

CREATE TABLE verdicts (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id     text NOT NULL REFERENCES runs,
    model      text NOT NULL,
    candidate  text NOT NULL,
    champion   text NOT NULL,
    promote    boolean NOT NULL,
    verdict    jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (run_id, model, candidate)
);
