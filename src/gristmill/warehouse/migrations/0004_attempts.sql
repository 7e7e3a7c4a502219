-- Every judging on the holdout, whatever came of it: each wears the holdout, so none is forgotten.
CREATE TABLE gristmill.attempts (
    attempt      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    attempted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    generation   integer NOT NULL,          -- how often the holdout's entities were renewed, from 1
    answers      text NOT NULL,             -- a digest of its entities and labels, and of the scores
    champion     text,                      -- the version that it was compared with
    chance_spent boolean NOT NULL,          -- whether it could have made the first champion
    rows         bigint NOT NULL,
    decision     text NOT NULL CHECK (decision IN ('promote', 'refuse', 'cannot tell')),
    reasons      jsonb NOT NULL,
    evidence     jsonb NOT NULL             -- the numbers behind the reasons
);

CREATE FUNCTION gristmill.keep_attempts() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog
AS $$
BEGIN
    RAISE EXCEPTION '% on gristmill.attempts is refused: attempts are counted and not forgotten.', TG_OP
        USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER keep_attempts BEFORE UPDATE OR DELETE OR TRUNCATE ON gristmill.attempts
FOR EACH STATEMENT EXECUTE FUNCTION gristmill.keep_attempts();
ALTER TABLE gristmill.attempts ENABLE ALWAYS TRIGGER keep_attempts;

-- What an attempt said of the holdout, for when its version cannot be asked any more. Kept of the
-- versions that were ever promoted, of the last few attempts, and of the first of each generation.
CREATE TABLE gristmill.holdout_scores (
    attempt  bigint PRIMARY KEY REFERENCES gristmill.attempts,
    entities text[] NOT NULL,
    scores   double precision[] NOT NULL
);
