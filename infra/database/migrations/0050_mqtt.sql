-- What came over MQTT and is no observation: events for Prefect, and what could not be used.

CREATE TABLE mqtt_messages (
    id          uuid PRIMARY KEY,       -- also that of the Prefect event
    key         text NOT NULL UNIQUE,   -- what makes two messages the same one
    topic       text NOT NULL,
    payload     bytea NOT NULL,
    state       text NOT NULL CHECK (state IN ('waiting', 'told', 'refused')),
    error       text,
    received_at timestamptz NOT NULL DEFAULT now(),
    CHECK (state <> 'refused' OR error IS NOT NULL)
);
CREATE INDEX mqtt_messages_waiting ON mqtt_messages (received_at) WHERE state = 'waiting';
CREATE INDEX mqtt_messages_by_time ON mqtt_messages (received_at);
