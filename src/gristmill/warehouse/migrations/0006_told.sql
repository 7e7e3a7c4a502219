-- A new period too is shown only once everybody has been told of it, and asking costs next to nothing:
-- a lock that can be had is given back at once.
CREATE OR REPLACE FUNCTION gristmill.shown_loads(of_table text) RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog
AS $$
DECLARE
    shown integer[];
BEGIN
    SELECT array_agg(CASE WHEN pg_try_advisory_lock_shared(6018463, load)
                          THEN CASE WHEN pg_advisory_unlock_shared(6018463, load) THEN load END
                          ELSE previous END)
    INTO shown FROM gristmill.current_loads WHERE table_name = of_table;
    PERFORM pg_relation_size('gristmill.told');
    RETURN coalesce(array_remove(shown, NULL), '{}');
END
$$;

CREATE OR REPLACE FUNCTION gristmill.shown_builds(of_name text) RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog
AS $$
DECLARE
    shown integer[];
BEGIN
    SELECT array_agg(CASE WHEN pg_try_advisory_lock_shared(6018464, build)
                          THEN CASE WHEN pg_advisory_unlock_shared(6018464, build) THEN build END
                          ELSE previous END)
    INTO shown FROM gristmill.current_builds WHERE name = of_name;
    PERFORM pg_relation_size('gristmill.told');
    RETURN coalesce(array_remove(shown, NULL), '{}');
END
$$;

DROP FUNCTION gristmill.is_told;
