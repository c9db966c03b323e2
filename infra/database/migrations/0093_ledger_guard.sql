-- The amounts of the ledger are moved by its functions alone: a statement by hand keeps no counter of
-- a window in step, so it would hold or free money that no limit knows of. Who it is tells the call
-- stack; what expires_at says moves no money.
CREATE FUNCTION refuse_by_hand() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    stack text;
BEGIN
    GET DIAGNOSTICS stack = PG_CONTEXT;
    IF strpos(stack, E'\nPL/pgSQL function ledger_') = 0 THEN
        RAISE check_violation USING
            MESSAGE = format('%s of %s by hand: no limit would know of it', TG_OP, TG_TABLE_NAME),
            HINT = 'Use the functions ledger_*, as `nightshift budget set` does.';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER not_by_hand
    BEFORE INSERT OR DELETE OR TRUNCATE OR UPDATE OF id, key, scopes, amount, spent, closed_at, state
    ON reservations FOR EACH STATEMENT EXECUTE FUNCTION refuse_by_hand();
CREATE TRIGGER not_by_hand BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE
    ON budgets FOR EACH STATEMENT EXECUTE FUNCTION refuse_by_hand();
CREATE TRIGGER not_by_hand BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE
    ON budget_windows FOR EACH STATEMENT EXECUTE FUNCTION refuse_by_hand();
CREATE TRIGGER not_by_hand BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE
    ON allocations FOR EACH STATEMENT EXECUTE FUNCTION refuse_by_hand();
CREATE TRIGGER not_by_hand BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE
    ON extensions FOR EACH STATEMENT EXECUTE FUNCTION refuse_by_hand();
CREATE TRIGGER not_by_hand BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE
    ON charges FOR EACH STATEMENT EXECUTE FUNCTION refuse_by_hand();
