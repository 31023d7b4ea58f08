-- The tables are a view of the log: every row is a fact that stands there, and dropping them loses nothing.
-- Ids are the ids of facts (an application's is the hash of its content, a run's its own); times are the facts' own.
-- Names are unqualified: the search path says whether these are the tables in use or the ones that will replace them.

CREATE TABLE applications (
    id text PRIMARY KEY,
    event_id text NOT NULL,
    recorded_at timestamptz NOT NULL,
    name text NOT NULL,
    family text NOT NULL,
    split text NOT NULL,
    origin text NOT NULL,
    licence text NOT NULL,
    suite text NOT NULL,
    expected_test_ids text[] NOT NULL,
    source_paths text[] NOT NULL,
    source_contents bytea[] NOT NULL,
    test_paths text[] NOT NULL,
    test_contents bytea[] NOT NULL
);
CREATE INDEX ON applications (family, split);

-- Verified: reason is null. Rejected: runs, sandbox and assurance are null.
CREATE TABLE verifications (
    id text PRIMARY KEY,
    recorded_at timestamptz NOT NULL,
    caused_by text[] NOT NULL,
    application_id text NOT NULL REFERENCES applications (id),
    runs bigint,
    sandbox text,
    assurance text,
    reason text
);
CREATE INDEX ON verifications (application_id);

CREATE TABLE runs (
    id text PRIMARY KEY,
    event_id text NOT NULL,
    recorded_at timestamptz NOT NULL,
    caused_by text[] NOT NULL,
    specification jsonb NOT NULL,
    application_ids text[] NOT NULL,
    numerics jsonb NOT NULL,
    code_version text NOT NULL,
    offsets jsonb NOT NULL,
    label text NOT NULL,
    scoring text NOT NULL,
    parent_run_id text,
    parent_step bigint
);
CREATE INDEX ON runs (label) WHERE label <> '';
CREATE INDEX ON runs (parent_run_id) WHERE parent_run_id IS NOT NULL;

CREATE TABLE run_endings (
    id text PRIMARY KEY,
    recorded_at timestamptz NOT NULL,
    caused_by text[] NOT NULL,
    run_id text NOT NULL REFERENCES runs (id),
    outcome text NOT NULL,
    cause text NOT NULL,
    rounds bigint NOT NULL,
    policy_digest text NOT NULL
);
CREATE INDEX ON run_endings (run_id);

CREATE TABLE rounds (
    id text PRIMARY KEY,
    recorded_at timestamptz NOT NULL,
    caused_by text[] NOT NULL,
    run_id text NOT NULL REFERENCES runs (id),
    purpose text NOT NULL,
    round bigint NOT NULL,
    policy_digest text NOT NULL,
    application_ids text[] NOT NULL
);
CREATE INDEX ON rounds (run_id, purpose, round);

CREATE TABLE draws (
    id text PRIMARY KEY,
    recorded_at timestamptz NOT NULL,
    caused_by text[] NOT NULL,
    run_id text NOT NULL,
    round_id text NOT NULL REFERENCES rounds (id),
    application_id text NOT NULL REFERENCES applications (id),
    policy_digest text NOT NULL,
    draft_seeds bigint[] NOT NULL,
    draft_sampling jsonb NOT NULL,
    implementers jsonb NOT NULL,
    rebuild_sampling jsonb NOT NULL,
    author text NOT NULL,
    reward jsonb NOT NULL
);
CREATE INDEX ON draws (round_id);
CREATE INDEX ON draws (application_id);

-- Drafted: fault and cause are null. Failed: the text and all about it are null.
CREATE TABLE drafts (
    id text PRIMARY KEY,
    recorded_at timestamptz NOT NULL,
    caused_by text[] NOT NULL,
    run_id text NOT NULL,
    draw_id text NOT NULL REFERENCES draws (id),
    draft bigint NOT NULL,
    policy_digest text NOT NULL,
    text text,
    prompt_version text,
    prompt_token_ids bigint[],
    token_ids bigint[],
    log_probs float8[],
    seed bigint,
    sampling jsonb,
    adapter_digest text,
    finish_reason text,
    fault text,
    cause text,
    embedding vector(384)
);
CREATE INDEX ON drafts (draw_id);

-- Written: fault and cause are null. Failed: the files and all about them are null.
CREATE TABLE implementations (
    id text PRIMARY KEY,
    recorded_at timestamptz NOT NULL,
    caused_by text[] NOT NULL,
    run_id text NOT NULL,
    requirements_id text NOT NULL REFERENCES drafts (id),
    model text NOT NULL,
    model_digest text,
    prompt_version text,
    file_paths text[],
    file_contents bytea[],
    answer text,
    seed bigint,
    finish_reason text,
    tokens bigint,
    work_key text,
    answered_from text,
    fault text,
    cause text
);
CREATE INDEX ON implementations (requirements_id);

CREATE TABLE suites (
    id text PRIMARY KEY,
    recorded_at timestamptz NOT NULL,
    caused_by text[] NOT NULL,
    run_id text NOT NULL,
    implementation_id text NOT NULL REFERENCES implementations (id),
    model text NOT NULL,
    verdict text NOT NULL,
    cause text NOT NULL,
    suite_digest text NOT NULL,
    sandbox text NOT NULL,
    assurance text NOT NULL,
    evidence jsonb NOT NULL,
    work_key text NOT NULL,
    answered_from text,
    test_ids text[] NOT NULL,
    outcomes text[] NOT NULL,
    seconds float8[] NOT NULL,
    messages text[] NOT NULL
);
CREATE INDEX ON suites (implementation_id);

-- One row per test of a suite, kept as arrays in its suite.
CREATE VIEW test_results AS
SELECT suites.id AS suite_id, result.*
FROM suites
CROSS JOIN LATERAL unnest(test_ids, outcomes, seconds, messages)
    WITH ORDINALITY AS result (test_id, outcome, seconds, message, place);

CREATE TABLE rewards (
    id text PRIMARY KEY,
    recorded_at timestamptz NOT NULL,
    caused_by text[] NOT NULL,
    run_id text NOT NULL REFERENCES runs (id),
    requirements_id text NOT NULL REFERENCES drafts (id),
    application_id text NOT NULL REFERENCES applications (id),
    purpose text NOT NULL,
    round bigint NOT NULL,
    draft bigint NOT NULL,
    policy_digest text NOT NULL,
    suite_ids text[] NOT NULL,
    value float8,
    cause text NOT NULL,
    terms jsonb NOT NULL,
    rates jsonb NOT NULL,
    function text NOT NULL
);
CREATE INDEX ON rewards (run_id, purpose, round);
CREATE INDEX ON rewards (requirements_id);
CREATE INDEX ON rewards (application_id);

CREATE TABLE updates (
    id text PRIMARY KEY,
    recorded_at timestamptz NOT NULL,
    caused_by text[] NOT NULL,
    run_id text NOT NULL,
    round_id text NOT NULL REFERENCES rounds (id),
    round bigint NOT NULL,
    step bigint NOT NULL,
    skipped text NOT NULL,
    parent_policy_digest text NOT NULL,
    policy_digest text NOT NULL,
    mean_reward float8 NOT NULL,
    loss float8 NOT NULL,
    gradient_norm float8 NOT NULL,
    kl_to_base float8 NOT NULL,
    entropy float8 NOT NULL,
    sampler_kl float8 NOT NULL,
    learning_rate float8 NOT NULL,
    invalid_drafts bigint NOT NULL,
    small_groups bigint NOT NULL,
    flat_groups bigint NOT NULL,
    checkpoint_digest text NOT NULL,
    optimizer_digest text NOT NULL,
    random_digest text NOT NULL,
    seconds float8 NOT NULL
);
CREATE INDEX ON updates (run_id, round);
CREATE INDEX ON updates (round_id);

-- Which rewards an update learnt from, in the order it summed them.
CREATE TABLE update_rewards (
    update_id text NOT NULL REFERENCES updates (id),
    place bigint NOT NULL,
    reward_id text NOT NULL REFERENCES rewards (id),
    advantage float8,
    PRIMARY KEY (update_id, place)
);
CREATE INDEX ON update_rewards (reward_id);

CREATE TABLE validations (
    id text PRIMARY KEY,
    recorded_at timestamptz NOT NULL,
    caused_by text[] NOT NULL,
    run_id text NOT NULL,
    round_id text NOT NULL REFERENCES rounds (id),
    purpose text NOT NULL,
    round bigint NOT NULL,
    policy_digest text NOT NULL,
    mean_pass_rate float8 NOT NULL,
    spread float8 NOT NULL,
    invalid bigint NOT NULL
);
CREATE INDEX ON validations (run_id, purpose, round);
CREATE INDEX ON validations (round_id);

CREATE TABLE validation_rows (
    validation_id text NOT NULL REFERENCES validations (id),
    place bigint NOT NULL,
    application_id text NOT NULL REFERENCES applications (id),
    model_place bigint NOT NULL,
    model text NOT NULL,
    rate float8,
    rewarded boolean NOT NULL,
    PRIMARY KEY (validation_id, place, model_place)
);
CREATE INDEX ON validation_rows (application_id);

CREATE TABLE dead_letters (
    id text PRIMARY KEY,
    recorded_at timestamptz NOT NULL,
    caused_by text[] NOT NULL,
    run_id text,
    topic text NOT NULL,
    "partition" bigint NOT NULL,
    "offset" bigint NOT NULL,
    stage text NOT NULL,
    exception text NOT NULL,
    attempts bigint NOT NULL
);
CREATE INDEX ON dead_letters (topic, "partition", "offset");

-- A person had a dead letter's record worked on again. exception is '' where that went well.
CREATE TABLE dead_letter_replays (
    id text PRIMARY KEY,
    recorded_at timestamptz NOT NULL,
    caused_by text[] NOT NULL,
    dead_letter_id text NOT NULL REFERENCES dead_letters (id),
    written bigint NOT NULL,
    exception text NOT NULL
);
CREATE INDEX ON dead_letter_replays (dead_letter_id);

-- Where reading goes on. Written in the transaction that wrote the rows before it.
CREATE TABLE offsets (
    topic text NOT NULL,
    "partition" bigint NOT NULL,
    next_offset bigint NOT NULL,
    PRIMARY KEY (topic, "partition")
);

-- Records that are in no table, and why. One that waits for another fact keeps its frame and is let in when that comes.
CREATE TABLE parked (
    topic text NOT NULL,
    "partition" bigint NOT NULL,
    "offset" bigint NOT NULL,
    table_name text,
    fact_id text,
    missing_table text,
    missing_id text,
    cause text NOT NULL,
    frame bytea,
    PRIMARY KEY (topic, "partition", "offset")
);
CREATE INDEX ON parked USING hash (fact_id);
CREATE INDEX ON parked USING hash (missing_id);
