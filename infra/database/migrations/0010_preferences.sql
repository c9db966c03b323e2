-- Who left a piece of feedback, against which answer, and whether it was made up for bootstrapping.

ALTER TABLE feedback
    ADD COLUMN key       text UNIQUE,
    ADD COLUMN author    text,
    ADD COLUMN against   bigint REFERENCES interactions,
    ADD COLUMN simulated boolean NOT NULL DEFAULT false;

-- Rows from before stay as they are.
ALTER TABLE feedback
    ADD CONSTRAINT feedback_is_whole CHECK (
        CASE kind
            WHEN 'comparison' THEN against IS NOT NULL AND against <> interaction_id
            WHEN 'correction' THEN correction IS NOT NULL
            ELSE value IS NOT NULL
        END
    ) NOT VALID;

CREATE INDEX feedback_by_time ON feedback (created_at);
CREATE INDEX feedback_of_interaction ON feedback (interaction_id);
