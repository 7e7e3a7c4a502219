-- What is on record stays: added to, and neither changed nor deleted, whoever asks for it.

CREATE FUNCTION gristmill.keep_record() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog
AS $$
BEGIN
    RAISE EXCEPTION '% on gristmill.% is refused: what is on record there stays as it is.',
        TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation',
              HINT = 'Predictions, model versions and builds refer to it.';
END
$$;

-- What may change of loads and builds is whether they were undone, dropped, or may be read still.
CREATE TRIGGER keep_record
BEFORE DELETE OR TRUNCATE OR UPDATE OF load, table_name, period, file, etag, bytes, modified_at,
    contract, status, rows, rejected, rules, seconds, loaded_at
ON gristmill.loads FOR EACH STATEMENT EXECUTE FUNCTION gristmill.keep_record();

CREATE TRIGGER keep_record
BEFORE DELETE OR TRUNCATE OR UPDATE OF build, name, period, definition, loads, builds, as_of, rows,
    seconds, built_at
ON gristmill.builds FOR EACH STATEMENT EXECUTE FUNCTION gristmill.keep_record();

-- The digest of the bundle's manifest, which holds those of its files: another bundle is noticed.
ALTER TABLE gristmill.model_versions ADD COLUMN bundle_digest text;

CREATE TRIGGER keep_record
BEFORE DELETE OR TRUNCATE OR UPDATE OF version, candidate, verdict, reasons, no_signal, evaluation,
    build, lineage, run_id, bundle, code_version, seed, registered_at, bundle_digest
ON gristmill.model_versions FOR EACH STATEMENT EXECUTE FUNCTION gristmill.keep_record();

-- Who promotes: the user of the machine as the command says, that of the database as this one knows.
ALTER TABLE gristmill.promotions ADD COLUMN os_user text, ADD COLUMN database_user text;

CREATE FUNCTION gristmill.sign_promotion() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog
AS $$
BEGIN
    NEW.database_user := session_user;
    NEW.promoted_at := clock_timestamp();
    RETURN NEW;
END
$$;

CREATE TRIGGER sign_promotion BEFORE INSERT ON gristmill.promotions
FOR EACH ROW EXECUTE FUNCTION gristmill.sign_promotion();

CREATE TRIGGER keep_record BEFORE UPDATE OR DELETE OR TRUNCATE ON gristmill.promotions
FOR EACH STATEMENT EXECUTE FUNCTION gristmill.keep_record();

-- Also for a session that says it replicates, which would pass over ordinary triggers.
ALTER TABLE gristmill.loads ENABLE ALWAYS TRIGGER keep_record;
ALTER TABLE gristmill.builds ENABLE ALWAYS TRIGGER keep_record;
ALTER TABLE gristmill.model_versions ENABLE ALWAYS TRIGGER keep_record;
ALTER TABLE gristmill.promotions ENABLE ALWAYS TRIGGER keep_record;
ALTER TABLE gristmill.promotions ENABLE ALWAYS TRIGGER sign_promotion;

-- Which versions have answered, told without reading every answer.
CREATE INDEX predictions_by_version ON gristmill.predictions (model_version, predicted_at);
