-- What the keys are made from with which nodes sign the checkpoints that they leave in the bucket.
ALTER TABLE installation ADD COLUMN signing_key text NOT NULL
    DEFAULT gen_random_uuid()::text || gen_random_uuid()::text;
