-- Raw samples of benchmarks. A session is one suite of one run; only a completed one is used.

CREATE TABLE benchmark_sessions (
    id              text PRIMARY KEY,
    run_id          text NOT NULL REFERENCES runs,
    suite           text NOT NULL,
    revision        text NOT NULL,
    against         text,
    environment_key text,
    environment     jsonb,
    begun_at        timestamptz NOT NULL DEFAULT now(),
    completed_at    timestamptz,
    CHECK (completed_at IS NULL OR (environment_key IS NOT NULL AND environment IS NOT NULL))
);

-- `complete` is false for a figure that was killed in its middle; it was then measured anew.
CREATE TABLE benchmark_samples (
    session  text NOT NULL REFERENCES benchmark_sessions,
    figure   text NOT NULL,
    unit     text NOT NULL,
    side     text NOT NULL CHECK (side IN ('now', 'then', 'beside')),
    attempt  integer NOT NULL,
    round    integer NOT NULL,
    position integer NOT NULL,
    warm_up  boolean NOT NULL,
    complete boolean NOT NULL,
    value    double precision NOT NULL CHECK (value > 0),
    raw      double precision[] NOT NULL,
    load     double precision NOT NULL,
    taken_at timestamptz NOT NULL,
    PRIMARY KEY (session, figure, side, attempt, warm_up, round)
);

-- What may be used.
CREATE VIEW benchmark_measured AS
SELECT t.suite, t.revision, t.environment_key, t.completed_at, s.session, s.figure, s.unit,
    s.side, s.round, s.value, s.raw, s.load
FROM benchmark_samples s JOIN benchmark_sessions t ON t.id = s.session
WHERE t.completed_at IS NOT NULL AND s.complete AND NOT s.warm_up;
