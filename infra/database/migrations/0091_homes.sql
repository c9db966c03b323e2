-- Where a job that runs on no rented machine runs: HOST:HOME. Another home sees nothing of it there.
ALTER TABLE jobs ADD COLUMN home text;
