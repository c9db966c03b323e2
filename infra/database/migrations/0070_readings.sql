-- What sensors measure in a building hour by hour, until a year of it is an observation.

CREATE TABLE buildings (
    model       text NOT NULL,
    name        text NOT NULL,
    description jsonb,                  -- its design and place
    next_hour   timestamptz NOT NULL DEFAULT '-infinity', -- the next year begins then or later
    refused     text,                   -- why the last year was no observation
    PRIMARY KEY (model, name)
);
CREATE TABLE readings (
    model    text NOT NULL,
    building text NOT NULL,
    hour     timestamptz NOT NULL,      -- its beginning
    measured jsonb NOT NULL,
    PRIMARY KEY (model, building, hour)
);
