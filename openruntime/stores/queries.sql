-- name: put_task
INSERT INTO tasks (id, tenant, status, operation, device, tags, idempotency, finished, size, blobs, meta, outputs)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    status = excluded.status, device = excluded.device, finished = excluded.finished, size = excluded.size,
    blobs = excluded.blobs, meta = excluded.meta, outputs = excluded.outputs

-- name: ended_task
SELECT meta, outputs FROM tasks WHERE id = :id AND finished IS NOT NULL

-- name: unfinished_tasks
SELECT meta, inputs FROM tasks WHERE finished IS NULL

-- name: drop_unfinished_tasks
DELETE FROM tasks WHERE finished IS NULL

-- name: put_pending
INSERT INTO pending (first, tasks) VALUES (?, ?)

-- name: put_pending_left
INSERT OR REPLACE INTO pending_left (number, ids) VALUES (?, ?)

-- name: drop_pending
DELETE FROM pending WHERE number IN (SELECT value FROM json_each(:rows))

-- name: drop_pending_left
DELETE FROM pending_left WHERE number IN (SELECT value FROM json_each(:rows))

-- name: first_pending
SELECT min(first) FROM pending

-- name: pending_pages
SELECT number, tasks, ids FROM pending LEFT JOIN pending_left USING (number) ORDER BY number DESC

-- name: ended_ids
SELECT id FROM tasks WHERE id >= :first

-- name: ended_pages
SELECT tasks FROM pages WHERE last >= :first

-- name: idempotency_keys
SELECT tenant, idempotency, id FROM tasks WHERE idempotency IS NOT NULL

-- name: list_tasks
SELECT meta FROM tasks
WHERE finished IS NOT NULL
    AND (:after IS NULL OR id < :after)
    AND (:tenant IS NULL OR tenant = :tenant)
    AND (:status IS NULL OR status = :status)
    AND (:operation IS NULL OR operation = :operation)
    AND (:device IS NULL OR device = :device)
    AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(tags) WHERE value = :tag))
ORDER BY id DESC LIMIT :limit

-- name: list_rare_tasks
SELECT meta FROM tasks
WHERE status = :status AND status IN ('failed', 'cancelled')
    AND (:after IS NULL OR id < :after)
    AND (:tenant IS NULL OR tenant = :tenant)
    AND (:operation IS NULL OR operation = :operation)
    AND (:device IS NULL OR device = :device)
    AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(tags) WHERE value = :tag))
ORDER BY id DESC LIMIT :limit

-- name: surplus_history
SELECT row, paged FROM (
    SELECT row, paged, finished, count, size, sum(count) OVER newest AS number, sum(size) OVER newest AS total
    FROM (
        SELECT rowid AS row, 0 AS paged, finished, 1 AS count, size FROM tasks WHERE finished IS NOT NULL
        UNION ALL SELECT number, 1, finished, count, size FROM pages
    )
    WINDOW newest AS (ORDER BY finished DESC, paged, row DESC)
) WHERE number - count >= :history OR total - (count > 1) * size > :bytes OR finished < :before

-- name: drop_tasks
DELETE FROM tasks WHERE rowid IN (SELECT value FROM json_each(:rows)) RETURNING id, tenant, idempotency

-- name: expire_results
UPDATE tasks SET outputs = NULL, blobs = NULL, size = 0 WHERE finished >= :since AND finished < :before

-- name: put_page
INSERT OR REPLACE INTO pages (number, first, last, count, size, finished, tenants, operations, devices, tags, checksum, tasks, outputs)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: page_numbers
SELECT number, checksum IS NOT NULL FROM pages

-- name: find_pages
SELECT number, checksum, tasks, outputs FROM pages WHERE last >= :id AND first <= :id

-- name: list_pages
SELECT last, tasks FROM pages
WHERE (:after IS NULL OR first < :after)
    AND (:tenant IS NULL OR EXISTS (SELECT 1 FROM json_each(tenants) WHERE value = :tenant))
    AND (:operation IS NULL OR EXISTS (SELECT 1 FROM json_each(operations) WHERE value = :operation))
    AND (:device IS NULL OR EXISTS (SELECT 1 FROM json_each(devices) WHERE value = :device))
    AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(pages.tags) WHERE value = :tag))
ORDER BY last DESC

-- name: drop_pages
DELETE FROM pages WHERE number IN (SELECT value FROM json_each(:rows)) RETURNING number, count

-- name: expire_pages
UPDATE pages SET outputs = NULL, checksum = NULL, size = 0 WHERE finished >= :since AND finished < :before RETURNING number

-- name: counted_blobs
SELECT value FROM tasks, json_each(tasks.blobs) WHERE tasks.blobs IS NOT NULL
UNION SELECT value FROM shelf, json_each(shelf.blobs) WHERE shelf.blobs IS NOT NULL

-- name: identity
SELECT id FROM identity

-- name: ended_count
SELECT count(*) FROM tasks WHERE finished IS NOT NULL

-- name: page_files
SELECT number, count, checksum FROM pages

-- name: counting_tasks
SELECT outputs FROM tasks WHERE blobs IS NOT NULL AND outputs IS NOT NULL

-- name: counting_shelf
SELECT arrays FROM shelf WHERE blobs IS NOT NULL

-- name: put_shelf
INSERT OR REPLACE INTO shelf (namespace, key, tenant, expires, used, size, blobs, meta, arrays)
VALUES (:namespace, :key, :tenant, :expires, :used, :size, :blobs, :meta, :arrays)

-- name: get_shelf
SELECT meta, arrays FROM shelf WHERE namespace = :namespace AND key = :key AND expires > :now

-- name: delete_shelf
DELETE FROM shelf WHERE namespace = :namespace AND key = :key AND expires > :now

-- name: shelf_items
SELECT key, meta FROM shelf
WHERE namespace = :namespace AND key > :after AND expires > :now AND (:tenant IS NULL OR tenant = :tenant)
ORDER BY key LIMIT :limit

-- name: touch_shelf
UPDATE shelf SET used = :used WHERE namespace = :namespace AND key = :key

-- name: trim_shelf
DELETE FROM shelf WHERE rowid IN (
    SELECT row FROM (
        SELECT rowid AS row, expires, sum(CASE WHEN expires > :now THEN size ELSE 0 END) OVER (ORDER BY used DESC, rowid DESC) AS total
        FROM shelf WHERE namespace = :namespace
    ) WHERE total > :max_bytes OR expires <= :now
)
