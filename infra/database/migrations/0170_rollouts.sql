-- Challengers on their way to all requests of a live endpoint. `share` of them goes to the
-- challenger, 0 to 1; who judges it says every second that it still does (`watched_at`). Compared is
-- what was answered after the interaction `answered_before`.

CREATE TABLE rollouts (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model           text NOT NULL,
    champion        text NOT NULL,
    challenger      text NOT NULL CHECK (challenger <> champion),
    state           text NOT NULL DEFAULT 'loading' CHECK (
        state IN ('loading', 'canary', 'promoting', 'finished', 'rolled back')),
    share           double precision NOT NULL DEFAULT 0 CHECK (share BETWEEN 0 AND 1),
    answered_before bigint NOT NULL,
    reason          text,
    begun_at        timestamptz NOT NULL DEFAULT now(),
    watched_at      timestamptz NOT NULL DEFAULT now(),
    ended_at        timestamptz,
    CHECK ((ended_at IS NULL) = (state IN ('loading', 'canary', 'promoting')))
);
-- Two rollouts of one model exclude each other.
CREATE UNIQUE INDEX one_open_rollout ON rollouts (model) WHERE ended_at IS NULL;
