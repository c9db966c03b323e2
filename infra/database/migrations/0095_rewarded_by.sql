-- Which function or model gave an interaction its reward: what another one gave is not trained on.
-- What a user's own system stored with a reward has none, and is.
ALTER TABLE interactions ADD COLUMN rewarded_by text;

DROP FUNCTION usable_interactions(text, text[], timestamptz, text);
CREATE FUNCTION usable_interactions(
    of_model text, versions text[], since timestamptz, own_run text, by_reward text
) RETURNS SETOF bigint LANGUAGE sql STABLE AS $$
    SELECT i.id FROM interactions i
    WHERE i.model = of_model AND i.model_version = ANY (versions) AND i.created_at >= since
      AND cardinality(i.completion_token_ids) > 0
      AND (i.reward IS NOT NULL OR EXISTS (
          SELECT FROM feedback f WHERE f.interaction_id = i.id AND f.value IS NOT NULL))
      AND (i.reward IS NULL OR i.source = 'served' OR i.rewarded_by = by_reward)
      AND NOT EXISTS (
          SELECT FROM trajectories t WHERE t.interaction_id = i.id AND t.run_id <> own_run)
$$;
