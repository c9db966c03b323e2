-- Privacy of single records beside that of whole tenants: a round has `steps` releases, and a record
-- is in each of them with probability `sampling_rate`.

ALTER TABLE tenant_privacy
    ADD COLUMN unit text NOT NULL DEFAULT 'tenant' CHECK (unit IN ('tenant', 'record')),
    ADD COLUMN sampling_rate double precision NOT NULL DEFAULT 1
        CHECK (sampling_rate > 0 AND sampling_rate <= 1),
    ADD COLUMN steps integer NOT NULL DEFAULT 1 CHECK (steps > 0);
