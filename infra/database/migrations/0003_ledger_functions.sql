-- Every operation of the ledger is one function here, so one short transaction and one round trip.
-- Locks are always taken in this order, so that no two of them can wait for each other: budgets
-- (table), one reservation, budget_windows by (budget_id, starts_at).
-- SQLSTATEs: NS001 no room, NS002 another reservation is overdrawn, NS003 the key was used
-- otherwise or is closed, NS004 no such reservation, NS005 the project has no budget yet.

-- The windows of a budget that [from_, until] touches, each with its share of `amount` by time.
-- Shares are whole ten-thousandths of a dollar and add up to `amount` exactly.
CREATE FUNCTION ledger_split(
    period text, zone text, from_ timestamptz, until timestamptz, amount numeric
) RETURNS TABLE (starts_at timestamptz, ends_at timestamptz, part numeric)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    length interval;
    total numeric;
    given numeric := 0;
    due numeric;
BEGIN
    IF period = 'total' THEN
        RETURN QUERY SELECT '-infinity'::timestamptz, 'infinity'::timestamptz, round(amount, 4);
        RETURN;
    END IF;
    length := ('1 ' || period)::interval;
    starts_at := date_trunc(period, from_, zone);
    IF starts_at > from_ THEN  -- where clocks go back at midnight, the first 0:30 is yesterday's
        starts_at := date_trunc(period, from_ - interval '3 hours', zone);
    END IF;
    LOOP
        ends_at := (date_trunc(period, starts_at AT TIME ZONE zone) + length) AT TIME ZONE zone;
        IF ends_at >= until THEN
            part := round(amount - given, 4);
            RETURN NEXT;
            RETURN;
        END IF;
        total := coalesce(total, extract(epoch FROM until - from_) * 1000000);
        due := div(amount * 10000 * extract(epoch FROM ends_at - from_) * 1000000, total) / 10000;
        part := round(due - given, 4);
        RETURN NEXT;
        given := due;
        starts_at := ends_at;
    END LOOP;
END $$;

-- Raise NS001 with everything that a person needs to know about the window that has no room.
CREATE FUNCTION ledger_deny(w budget_windows, r reservations, asked numeric, part numeric)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    b budgets;
BEGIN
    UPDATE allocations SET reserved = reserved - part  -- it holds nothing more than before
    WHERE reservation_id = r.id AND budget_id = w.budget_id AND starts_at = w.starts_at;
    SELECT * INTO b FROM budgets WHERE id = w.budget_id;
    RAISE EXCEPTION USING ERRCODE = 'NS001', MESSAGE = 'no room in the budget',
        DETAIL = jsonb_build_object(
            'scope', b.scope, 'period', b.period, 'timezone', b.timezone, 'limit', w.limit_usd,
            'charged', w.charged, 'reserved', w.reserved,
            'asked', round(asked, 4), 'part', part,
            'starts_at', nullif(w.starts_at, '-infinity'),
            'ends_at', nullif(w.ends_at, 'infinity'),
            'holders', ledger_holders(w.budget_id, w.starts_at));
END $$;

-- Who reserved how much of a window, largest first: [{"key": ..., "amount": ...}].
CREATE FUNCTION ledger_holders(budget bigint, beginning timestamptz)
RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT coalesce(jsonb_agg(
        jsonb_build_object('key', r.key, 'amount', a.reserved) ORDER BY a.reserved DESC, r.id), '[]')
    FROM reservations r JOIN allocations a ON a.reservation_id = r.id
    WHERE r.closed_at IS NULL AND a.budget_id = budget AND a.starts_at = beginning
        AND a.reserved > 0
$$;

-- Reserve `asked` over [from_, until] in every budget of the reservation, or raise NS001.
CREATE FUNCTION ledger_hold(r reservations, asked numeric, from_ timestamptz, until timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    share record;
    w budget_windows;
BEGIN
    FOR share IN
        SELECT b.id, b.limit_usd, s.starts_at, s.ends_at, s.part
        FROM budgets b, ledger_split(b.period, b.timezone, from_, until, asked) s
        WHERE b.scope = ANY (r.scopes) ORDER BY b.id, s.starts_at
    LOOP
        INSERT INTO allocations AS a (reservation_id, budget_id, starts_at, reserved)
        VALUES (r.id, share.id, share.starts_at, share.part)
        ON CONFLICT (reservation_id, budget_id, starts_at)
        DO UPDATE SET reserved = a.reserved + excluded.reserved;
        LOOP
            UPDATE budget_windows b SET reserved = b.reserved + share.part
            WHERE b.budget_id = share.id AND b.starts_at = share.starts_at
                AND b.charged + b.reserved + share.part <= b.limit_usd;
            EXIT WHEN FOUND;
            INSERT INTO budget_windows (budget_id, starts_at, ends_at, limit_usd)
            VALUES (share.id, share.starts_at, share.ends_at, share.limit_usd)
            ON CONFLICT DO NOTHING;
            SELECT * INTO w FROM budget_windows b
            WHERE b.budget_id = share.id AND b.starts_at = share.starts_at FOR UPDATE;
            IF w.charged + w.reserved + share.part > w.limit_usd THEN
                PERFORM ledger_deny(w, r, asked, share.part);
            END IF;
        END LOOP;
    END LOOP;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'NS005', MESSAGE = 'the project has no budget';
    END IF;
END $$;

CREATE FUNCTION ledger_reserve(
    key_ text, scopes_ text[], asked numeric, until timestamptz, at_ timestamptz
) RETURNS reservations LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    r reservations;
    debtor reservations;
    extended numeric;
BEGIN
    LOCK TABLE budgets IN ROW SHARE MODE;
    INSERT INTO reservations (key, scopes, amount, created_at, expires_at)
    VALUES (key_, scopes_, asked, at_, until) ON CONFLICT (key) DO NOTHING RETURNING * INTO r;
    IF NOT FOUND THEN
        SELECT * INTO r FROM reservations WHERE key = key_;
        SELECT coalesce(sum(amount), 0) INTO extended FROM extensions WHERE reservation_id = r.id;
        IF r.closed_at IS NOT NULL THEN
            PERFORM ledger_conflict(key_, 'is already ' || r.state);
        ELSIF r.scopes <> scopes_ OR r.amount - extended <> asked THEN
            PERFORM ledger_conflict(key_, format(
                'is reserved with %s dollars for %s, not %s for %s', r.amount - extended,
                array_to_string(r.scopes, ', '), asked, array_to_string(scopes_, ', ')));
        END IF;
        RETURN r;
    END IF;
    SELECT * INTO debtor FROM reservations WHERE state = 'overdrawn' AND closed_at IS NULL LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'NS002', MESSAGE = format(
            'nothing new is reserved while %s is overdrawn: %s dollars spent, %s reserved',
            debtor.key, debtor.spent, debtor.amount);
    END IF;
    PERFORM ledger_hold(r, asked, at_, until);
    RETURN r;
END $$;

CREATE FUNCTION ledger_conflict(key_ text, what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'NS003', MESSAGE = format('the key %s %s', key_, what);
END $$;

-- One reservation, locked until the end of the transaction.
CREATE FUNCTION ledger_lock(reservation bigint) RETURNS reservations LANGUAGE plpgsql AS $$
DECLARE
    r reservations;
BEGIN
    LOCK TABLE budgets IN ROW SHARE MODE;
    SELECT * INTO r FROM reservations WHERE id = reservation FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'NS004',
            MESSAGE = format('there is no reservation %s', reservation);
    END IF;
    RETURN r;
END $$;

CREATE FUNCTION ledger_extend(
    reservation bigint, key_ text, added numeric, until timestamptz, at_ timestamptz
) RETURNS reservations LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    r reservations := ledger_lock(reservation);
    begins timestamptz := greatest(r.expires_at, at_);
    known extensions;
BEGIN
    INSERT INTO extensions VALUES (key_, r.id, added) ON CONFLICT (key) DO NOTHING;
    IF NOT FOUND THEN
        SELECT * INTO known FROM extensions WHERE key = key_;
        IF (known.reservation_id, known.amount) <> (r.id, added) THEN
            PERFORM ledger_conflict(key_, format('extended reservation %s by %s dollars',
                known.reservation_id, known.amount));
        END IF;
        RETURN r;
    ELSIF r.closed_at IS NOT NULL THEN
        PERFORM ledger_conflict(r.key, 'cannot be extended: it is already ' || r.state);
    END IF;
    until := greatest(until, r.expires_at);
    IF until <= begins THEN  -- dollars without hours
        begins := at_;
    END IF;
    -- What is overspent is charged already; only the rest has to be kept free.
    PERFORM ledger_hold(r, greatest(0, least(added, r.amount + added - r.spent)), begins, until);
    UPDATE reservations SET amount = amount + added, expires_at = until,
        state = CASE WHEN spent > amount + added THEN 'overdrawn' ELSE 'open' END
    WHERE id = r.id RETURNING * INTO r;
    RETURN r;
END $$;

CREATE FUNCTION ledger_charge(
    reservation bigint, key_ text, cost numeric, from_ timestamptz, until timestamptz
) RETURNS reservations LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    r reservations := ledger_lock(reservation);
    known charges;
    remaining numeric;
    d record;
BEGIN
    INSERT INTO charges VALUES (key_, r.id, cost, from_, until) ON CONFLICT (key) DO NOTHING;
    IF NOT FOUND THEN
        SELECT * INTO known FROM charges WHERE key = key_;
        IF (known.reservation_id, known.amount, known.starts_at, known.ends_at)
            <> (r.id, cost, from_, until) THEN
            PERFORM ledger_conflict(key_, format(
                'charged %s dollars to reservation %s from %s until %s',
                known.amount, known.reservation_id, known.starts_at, known.ends_at));
        END IF;
        RETURN r;
    END IF;
    UPDATE reservations SET spent = spent + cost, state = CASE
        WHEN closed_at IS NOT NULL THEN 'settled'
        WHEN spent + cost > amount THEN 'overdrawn' ELSE 'open' END
    WHERE id = r.id RETURNING * INTO r;
    remaining := CASE WHEN r.closed_at IS NULL THEN greatest(0, r.amount - r.spent) ELSE 0 END;
    -- A window's reserved part shrinks by what is charged there; whatever then is more than
    -- remains of the reservation (the charge was larger than that part) is freed, earliest first.
    FOR d IN
        WITH shares AS (
            SELECT b.id AS budget_id, s.starts_at, s.ends_at, s.part
            FROM budgets b, ledger_split(b.period, b.timezone, from_, until, cost) s
            WHERE b.scope = ANY (r.scopes)
        ), parts AS (
            SELECT budget_id, starts_at, s.ends_at, coalesce(s.part, 0) AS part,
                coalesce(a.reserved, 0) AS reserved,
                greatest(0, coalesce(a.reserved, 0) - coalesce(s.part, 0)) AS kept
            FROM shares s FULL JOIN (SELECT * FROM allocations WHERE reservation_id = r.id) a
                USING (budget_id, starts_at)
        ), sums AS (
            SELECT *, sum(kept) OVER (PARTITION BY budget_id) - remaining AS excess,
                sum(kept) OVER (PARTITION BY budget_id ORDER BY starts_at) - kept AS earlier
            FROM parts
        )
        SELECT s.*, b.limit_usd,
            reserved - kept + least(kept, greatest(0, excess - earlier)) AS freed
        FROM sums s JOIN budgets b ON b.id = s.budget_id ORDER BY budget_id, starts_at
    LOOP
        CONTINUE WHEN d.part = 0 AND d.freed = 0;
        INSERT INTO allocations AS a (reservation_id, budget_id, starts_at, charged)
        VALUES (r.id, d.budget_id, d.starts_at, d.part)
        ON CONFLICT (reservation_id, budget_id, starts_at)
        DO UPDATE SET reserved = a.reserved - d.freed, charged = a.charged + d.part;
        UPDATE budget_windows SET reserved = reserved - d.freed, charged = charged + d.part
        WHERE budget_id = d.budget_id AND starts_at = d.starts_at;
        IF NOT FOUND THEN
            INSERT INTO budget_windows AS w (budget_id, starts_at, ends_at, limit_usd, charged)
            VALUES (d.budget_id, d.starts_at, d.ends_at, d.limit_usd, d.part)
            ON CONFLICT (budget_id, starts_at) DO UPDATE SET charged = w.charged + d.part;
        END IF;
    END LOOP;
    RETURN r;
END $$;

-- Free what is left and close as 'settled' or, without a charge, as 'released'. The commit does not
-- wait for the disk while it holds the hot rows: a crash of the server may bring the reservation
-- back as it was before, which is safe, and only if nothing that was committed later is kept (the
-- log is written in order), such as the record that the job has ended.
CREATE FUNCTION ledger_close(reservation bigint, as_state text, at_ timestamptz)
RETURNS reservations LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    r reservations;
    a allocations;
BEGIN
    LOCK TABLE budgets IN ROW SHARE MODE;
    UPDATE reservations SET state = as_state, closed_at = at_
    WHERE id = reservation AND closed_at IS NULL AND (as_state = 'settled' OR spent = 0)
    RETURNING * INTO r;
    IF NOT FOUND THEN
        r := ledger_lock(reservation);
        IF as_state = 'released' AND r.spent > 0 THEN
            PERFORM ledger_conflict(r.key, format('has %s dollars charged: settle it', r.spent));
        END IF;
        RETURN r;
    END IF;
    PERFORM set_config('synchronous_commit', 'off', true);
    FOR a IN
        SELECT * FROM allocations WHERE reservation_id = r.id AND reserved > 0
        ORDER BY budget_id, starts_at
    LOOP
        UPDATE allocations SET reserved = 0 WHERE reservation_id = r.id
            AND budget_id = a.budget_id AND starts_at = a.starts_at;
        UPDATE budget_windows SET reserved = reserved - a.reserved
        WHERE budget_id = a.budget_id AND starts_at = a.starts_at;
    END LOOP;
    RETURN r;
END $$;

-- Lay all money of a budget into its windows anew: it is new, or its time zone was changed.
CREATE FUNCTION ledger_rebuild(b budgets, at_ timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM allocations WHERE budget_id = b.id;
    DELETE FROM budget_windows WHERE budget_id = b.id;
    WITH ours AS (
        SELECT * FROM reservations WHERE b.scope = ANY (scopes)
    ), parts AS (
        SELECT c.reservation_id, s.starts_at, s.ends_at, 0 AS reserved, s.part AS charged
        FROM ours r JOIN charges c ON c.reservation_id = r.id,
            ledger_split(b.period, b.timezone, c.starts_at, c.ends_at, c.amount) s
        UNION ALL
        SELECT r.id, s.starts_at, s.ends_at, s.part, 0
        FROM ours r, ledger_split(b.period, b.timezone, least(at_, r.expires_at),
            greatest(at_, r.expires_at), r.amount - r.spent) s
        WHERE r.closed_at IS NULL AND r.amount > r.spent
    ), posted AS (
        INSERT INTO allocations
        SELECT reservation_id, b.id, starts_at, sum(reserved), sum(charged)
        FROM parts GROUP BY reservation_id, starts_at
    )
    INSERT INTO budget_windows
    SELECT b.id, starts_at, ends_at, sum(reserved) + sum(charged), sum(reserved), sum(charged)
    FROM parts GROUP BY starts_at, ends_at;
    UPDATE budget_windows SET limit_usd = b.limit_usd WHERE budget_id = b.id;
END $$;

CREATE FUNCTION ledger_set_budget(
    scope_ text, period_ text, limit_ numeric, zone text, default_zone text, at_ timestamptz
) RETURNS budgets LANGUAGE plpgsql AS $$
DECLARE
    known budgets;
    b budgets;
BEGIN
    LOCK TABLE budgets IN EXCLUSIVE MODE;  -- no money moves while windows do
    SELECT * INTO known FROM budgets WHERE scope = scope_ AND period = period_;
    INSERT INTO budgets AS old (scope, period, timezone, limit_usd)
    VALUES (scope_, period_, coalesce(zone, default_zone), limit_)
    ON CONFLICT (scope, period)
    DO UPDATE SET limit_usd = limit_, timezone = coalesce(zone, old.timezone)
    RETURNING * INTO b;
    IF known.timezone IS DISTINCT FROM b.timezone THEN
        PERFORM ledger_rebuild(b, at_);
    ELSE
        UPDATE budget_windows SET limit_usd = limit_ WHERE budget_id = b.id AND ends_at > at_;
    END IF;
    RETURN b;
END $$;

-- The project's first budget, unless it has one.
CREATE FUNCTION ledger_first_budget(limit_ numeric, zone text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM budgets WHERE scope = 'project') THEN
        LOCK TABLE budgets IN EXCLUSIVE MODE;
        INSERT INTO budgets (scope, period, timezone, limit_usd)
        VALUES ('project', 'day', zone, limit_) ON CONFLICT DO NOTHING;
    END IF;
END $$;

-- Every place where counters, parts, charges and reservations disagree; none if all is well.
CREATE FUNCTION ledger_audit() RETURNS TABLE (discrepancy text) LANGUAGE sql STABLE AS $$
    SELECT format('window %s of budget %s: %s reserved, %s charged; its parts: %s and %s',
        starts_at, budget_id, w.reserved, w.charged, p.reserved, p.charged)
    FROM budget_windows w FULL JOIN (
        SELECT budget_id, starts_at, sum(reserved) AS reserved, sum(charged) AS charged
        FROM allocations GROUP BY budget_id, starts_at) p USING (budget_id, starts_at)
    WHERE (coalesce(w.reserved, 0), coalesce(w.charged, 0))
        <> (coalesce(p.reserved, 0), coalesce(p.charged, 0))
    UNION ALL
    SELECT format('reservation %s: %s spent, but its charges are %s', r.key, r.spent, c.charged)
    FROM reservations r LEFT JOIN (
        SELECT reservation_id, sum(amount) AS charged FROM charges GROUP BY reservation_id) c
        ON c.reservation_id = r.id
    WHERE r.spent <> coalesce(c.charged, 0)
    UNION ALL
    SELECT format('reservation %s in budget %s: %s reserved and %s charged instead of %s and %s',
        r.key, b.id, coalesce(p.reserved, 0), coalesce(p.charged, 0), due.reserved, r.spent)
    FROM reservations r JOIN budgets b ON b.scope = ANY (r.scopes)
    CROSS JOIN LATERAL (SELECT CASE WHEN r.closed_at IS NULL
        THEN greatest(0, r.amount - r.spent) ELSE 0 END AS reserved) due
    LEFT JOIN (
        SELECT reservation_id, budget_id, sum(reserved) AS reserved, sum(charged) AS charged
        FROM allocations GROUP BY reservation_id, budget_id) p
        ON p.reservation_id = r.id AND p.budget_id = b.id
    WHERE (coalesce(p.reserved, 0), coalesce(p.charged, 0)) <> (due.reserved, r.spent)
$$;
