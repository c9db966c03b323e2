-- When the provider itself last had a machine in its list: proof of life beside the machine's own.
ALTER TABLE attempts ADD COLUMN listed_at timestamptz;
