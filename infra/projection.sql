-- What the projection asks of its tables. Each statement carries its name; {braces} are identifiers.

-- name: hold
SELECT pg_advisory_xact_lock(hashtextextended('iccm.projection.' || %s, 0))

-- name: hold_for_session
SELECT pg_advisory_lock(hashtextextended('iccm.projection.' || %s, 0))

-- name: try_hold_for_session
SELECT pg_try_advisory_lock(hashtextextended('iccm.projection.' || %s, 0))

-- name: let_go
SELECT pg_advisory_unlock(hashtextextended('iccm.projection.' || %s, 0))

-- name: version
SELECT obj_description(to_regnamespace(%s)::oid, 'pg_namespace')

-- name: exists
SELECT to_regnamespace(%s) IS NOT NULL

-- name: extension_schema
SELECT nspname FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'vector'

-- name: tables
SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY tablename

-- name: in_order
COPY (SELECT * FROM {table} AS fact ORDER BY fact) TO STDOUT

-- name: present
SELECT id FROM {table} WHERE id = ANY(%s)

-- name: claimed
SELECT fact_id FROM parked WHERE table_name = %s AND fact_id = ANY(%s)

-- name: park
INSERT INTO parked (topic, "partition", "offset", table_name, fact_id, missing_table, missing_id, cause, frame)
VALUES (%(topic)s, %(partition)s, %(offset)s, %(table)s, %(fact_id)s,
        %(missing_table)s, %(missing_id)s, %(cause)s, %(frame)s)
ON CONFLICT DO NOTHING

-- name: release
DELETE FROM parked WHERE missing_table = %s AND missing_id = ANY(%s)
RETURNING topic, "partition", "offset", frame

-- name: unpark
DELETE FROM parked WHERE topic = %s AND "partition" = %s AND "offset" = %s AND missing_id IS NULL RETURNING topic

-- name: offsets
SELECT topic, "partition", next_offset FROM offsets

-- name: advance
INSERT INTO offsets (topic, "partition", next_offset) VALUES (%s, %s, %s)
ON CONFLICT (topic, "partition") DO UPDATE SET next_offset = excluded.next_offset
