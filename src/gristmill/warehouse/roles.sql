-- name: ourselves
-- Who is connected, to what, and whether they may make roles.
SELECT current_database() AS database, rolname AS owner, rolcreaterole OR rolsuper AS may_create
FROM pg_catalog.pg_roles
WHERE rolname = current_user;

-- name: existing
-- Which of these roles exist.
SELECT rolname AS name
FROM pg_catalog.pg_roles
WHERE rolname = ANY (%(names)s);

-- name: memberships
-- The groups that let a role read or write here: the two of the database, and their members.
SELECT parent.rolname AS name
FROM pg_catalog.pg_auth_members AS membership
JOIN pg_catalog.pg_roles AS parent ON parent.oid = membership.roleid
JOIN pg_catalog.pg_roles AS member ON member.oid = membership.member
WHERE member.rolname = %(member)s
  AND EXISTS (
      SELECT FROM pg_catalog.pg_roles AS ours
      WHERE ours.rolname = ANY (%(groups)s) AND pg_has_role(parent.oid, ours.oid, 'MEMBER')
  );

-- name: unreadable
-- The tables and views of a schema that a role cannot read yet, of those that we may grant.
SELECT relname AS name
FROM pg_catalog.pg_class
WHERE relnamespace = %(schema)s::regnamespace
  AND relkind IN ('r', 'p', 'v', 'm', 'f')
  AND pg_has_role(relowner, 'USAGE')
  AND NOT has_table_privilege(%(role)s, oid, 'SELECT')
ORDER BY relname;

-- name: create_group
-- A role that nobody logs in as.
CREATE ROLE {role} NOLOGIN;

-- name: create_user
-- A role that a person or a program logs in as; the server is given the password's verifier only.
CREATE ROLE {role} LOGIN PASSWORD {verifier};

-- name: join_group
-- Makes a role a member of another, with its rights.
GRANT {role} TO {member} WITH INHERIT TRUE, SET TRUE;

-- name: leave_group
-- Takes a membership away.
REVOKE {role} FROM {member};

-- name: close_database
-- Nobody enters the database, or makes temporary tables in it, without a grant.
REVOKE ALL ON DATABASE {database} FROM PUBLIC;

-- name: close_public
-- Nobody uses the schema that people query without a grant.
REVOKE ALL ON SCHEMA public FROM PUBLIC;

-- name: enter
-- Lets a role connect.
GRANT CONNECT ON DATABASE {database} TO {role};

-- name: make_temporary
-- Lets a role make temporary tables.
GRANT TEMPORARY ON DATABASE {database} TO {role};

-- name: use_schema
-- Lets a role look up names in a schema.
GRANT USAGE ON SCHEMA {schema} TO {role};

-- name: create_in_schema
-- Lets a role make objects of its own in a schema.
GRANT CREATE ON SCHEMA {schema} TO {role};

-- name: read_table
-- Lets a role read one table or view.
GRANT SELECT ON TABLE {schema}.{table} TO {role};

-- name: read_future_tables
-- Lets a role read what its maker will make in a schema.
ALTER DEFAULT PRIVILEGES FOR ROLE {maker} IN SCHEMA {schema} GRANT SELECT ON TABLES TO {role};

-- name: lacks_settings
-- Whether a role lacks the function that many clients begin with, and we may give it.
SELECT NOT has_function_privilege(%(role)s, config.function, 'EXECUTE')
       AND has_function_privilege(config.function, 'EXECUTE WITH GRANT OPTION')
FROM (VALUES ('pg_catalog.set_config(text, text, boolean)')) AS config (function);

-- name: change_settings
-- Lets a role call the function that does what SET does.
GRANT EXECUTE ON FUNCTION pg_catalog.set_config(text, text, boolean) TO {role};
