-- One row per scoring: a version's answers for everyone in a build of the feature store. They are
-- the predictions of that version whose predicted_at is its scored_at, and came with it.
CREATE TABLE gristmill.scores (
    score         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_version text NOT NULL REFERENCES gristmill.model_versions,
    build         integer NOT NULL REFERENCES gristmill.builds,
    entities      bigint NOT NULL,
    positives     bigint NOT NULL,
    seconds       double precision NOT NULL,
    scored_at     timestamptz NOT NULL
);
CREATE INDEX scores_by_build ON gristmill.scores (model_version, build);
