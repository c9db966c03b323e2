-- Money: budgets, what is reserved and what is charged. The functions that move it are in 0003,
-- what they mean is in infra/ledger.

-- NaN is greater than every number in PostgreSQL, hence named apart.
CREATE DOMAIN usd AS numeric(12,4) CHECK (VALUE >= 0 AND VALUE <> 'NaN');

CREATE TABLE budgets (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scope     text NOT NULL CHECK (scope ~ '^(project|(flow|run):.+)$'),
    period    text NOT NULL CHECK (period IN ('day', 'month', 'total')),
    timezone  text NOT NULL,
    limit_usd usd NOT NULL,
    UNIQUE (scope, period)
);

-- The hot counters: one row for each day, month or total of a budget that money falls into.
CREATE TABLE budget_windows (
    budget_id bigint NOT NULL REFERENCES budgets,
    starts_at timestamptz NOT NULL,
    ends_at   timestamptz NOT NULL CHECK (ends_at > starts_at),
    limit_usd usd NOT NULL,
    reserved  usd NOT NULL DEFAULT 0,
    charged   usd NOT NULL DEFAULT 0,
    PRIMARY KEY (budget_id, starts_at)
) WITH (fillfactor = 20);

CREATE TABLE reservations (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key        text NOT NULL UNIQUE,
    scopes     text[] NOT NULL CHECK ('project' = ANY (scopes)),
    amount     usd NOT NULL CHECK (amount > 0),
    spent      usd NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    closed_at  timestamptz,
    state      text NOT NULL DEFAULT 'open',
    CHECK (CASE state
        WHEN 'open' THEN closed_at IS NULL AND spent <= amount
        WHEN 'overdrawn' THEN closed_at IS NULL AND spent > amount
        WHEN 'settled' THEN closed_at IS NOT NULL
        WHEN 'released' THEN closed_at IS NOT NULL AND spent = 0
        ELSE false END)
) WITH (fillfactor = 70);
CREATE INDEX live_reservations ON reservations (state) WHERE closed_at IS NULL;

-- A reservation's part in one window. No foreign key to the window: its check would lock the hot
-- row a second time; ledger_audit() finds a part without its window.
CREATE TABLE allocations (
    reservation_id bigint NOT NULL REFERENCES reservations,
    budget_id      bigint NOT NULL,
    starts_at      timestamptz NOT NULL,
    reserved       usd NOT NULL DEFAULT 0,
    charged        usd NOT NULL DEFAULT 0,
    PRIMARY KEY (reservation_id, budget_id, starts_at)
) WITH (fillfactor = 70);

CREATE TABLE extensions (
    key            text PRIMARY KEY,
    reservation_id bigint NOT NULL REFERENCES reservations,
    amount         usd NOT NULL CHECK (amount > 0)
);
CREATE INDEX extensions_of_reservation ON extensions (reservation_id);

CREATE TABLE charges (
    key            text PRIMARY KEY,
    reservation_id bigint NOT NULL REFERENCES reservations,
    amount         usd NOT NULL CHECK (amount > 0),
    starts_at      timestamptz NOT NULL,
    ends_at        timestamptz NOT NULL CHECK (ends_at >= starts_at)
);
CREATE INDEX charges_of_reservation ON charges (reservation_id);

-- The invariant: nothing, not even SQL by hand, reserves beyond a limit.
CREATE FUNCTION refuse_beyond_limit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE check_violation USING MESSAGE = format(
        'budget window (%s, %s): %s charged + %s reserved exceed the limit of %s',
        NEW.budget_id, NEW.starts_at, NEW.charged, NEW.reserved, NEW.limit_usd);
END $$;
CREATE TRIGGER no_new_reservation_beyond_limit BEFORE INSERT ON budget_windows FOR EACH ROW
    WHEN (NEW.reserved > 0 AND NEW.charged + NEW.reserved > NEW.limit_usd)
    EXECUTE FUNCTION refuse_beyond_limit();
CREATE TRIGGER no_reservation_beyond_limit BEFORE UPDATE ON budget_windows FOR EACH ROW
    WHEN (NEW.reserved > OLD.reserved AND NEW.charged + NEW.reserved > NEW.limit_usd)
    EXECUTE FUNCTION refuse_beyond_limit();
