-- What serving knows of an answer beside its text and tokens; and who may ask it.

ALTER TABLE interactions
    ADD COLUMN model_sha256  text,
    ADD COLUMN sampling      jsonb,
    ADD COLUMN finish_reason text,
    ADD COLUMN latency_ms    double precision;

CREATE TABLE api_keys (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant     text NOT NULL CHECK (tenant <> ''),
    sha256     text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);

-- As in 0095, without what was answered greedily: there was one answer that it could give, so that a
-- ratio to it says nothing of what else could have been.
CREATE OR REPLACE FUNCTION usable_interactions(
    of_model text, versions text[], since timestamptz, own_run text, by_reward text
) RETURNS SETOF bigint LANGUAGE sql STABLE AS $$
    SELECT i.id FROM interactions i
    WHERE i.model = of_model AND i.model_version = ANY (versions) AND i.created_at >= since
      AND cardinality(i.completion_token_ids) > 0
      AND (i.sampling IS NULL OR (i.sampling ->> 'temperature')::double precision > 0)
      AND (i.reward IS NOT NULL OR EXISTS (
          SELECT FROM feedback f WHERE f.interaction_id = i.id AND f.value IS NOT NULL))
      AND (i.reward IS NULL OR i.source = 'served' OR i.rewarded_by = by_reward)
      AND NOT EXISTS (
          SELECT FROM trajectories t WHERE t.interaction_id = i.id AND t.run_id <> own_run)
$$;
