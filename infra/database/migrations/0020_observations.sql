-- Measured buildings that the surrogate learns from; each is stored once.

CREATE TABLE observations (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key        text NOT NULL UNIQUE,
    model      text NOT NULL,
    row        jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX observations_by_model ON observations (model, id);
