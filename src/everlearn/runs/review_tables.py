"""Tables of the review loop in a run's journal.

History is a tree that is only ever added to. A *branch* begins where an earlier state was taken up again (undo,
roll-back, forgetting, a damaged checkpoint); a *learning* says at which step of which branch a review was learned. What
the learner knows now is the *line*: the newest branch, and of each of its ancestors the steps before it was left.
``shared`` holds what servers on other machines need to join in: the run's configuration and its secret.
"""

REVIEW_TABLES = """
CREATE TABLE IF NOT EXISTS reviews (
  number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, at REAL NOT NULL, actor TEXT NOT NULL,
  case_id TEXT NOT NULL, verdict TEXT NOT NULL, code INTEGER, said INTEGER, version INTEGER, note TEXT NOT NULL,
  box TEXT, patient TEXT, picture BLOB, shape TEXT NOT NULL, status TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS reviews_of_case ON reviews (case_id);
CREATE INDEX IF NOT EXISTS reviews_by_status ON reviews (status, number);
CREATE TABLE IF NOT EXISTS branches (
  branch INTEGER PRIMARY KEY, parent INTEGER, base_step INTEGER NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL);
INSERT INTO branches VALUES (0, NULL, 0, 'the stream', 0) ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS learnings (
  branch INTEGER NOT NULL, step INTEGER NOT NULL, review INTEGER NOT NULL, loss REAL NOT NULL, at REAL NOT NULL,
  PRIMARY KEY (branch, step), UNIQUE (branch, review));
CREATE TABLE IF NOT EXISTS versions (
  number INTEGER PRIMARY KEY AUTOINCREMENT, branch INTEGER NOT NULL, step INTEGER NOT NULL, reviews INTEGER NOT NULL,
  at REAL NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, checked INTEGER NOT NULL, accuracy REAL,
  by_class TEXT NOT NULL, temperature REAL NOT NULL);
CREATE TABLE IF NOT EXISTS orders (
  number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, detail TEXT NOT NULL, actor TEXT NOT NULL,
  at REAL NOT NULL, done REAL, answer TEXT);
CREATE TABLE IF NOT EXISTS cases (
  number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, name TEXT NOT NULL, patient TEXT,
  sha256 TEXT NOT NULL UNIQUE, picture BLOB NOT NULL, original BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS removed (id INTEGER PRIMARY KEY, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS forgotten (id INTEGER PRIMARY KEY, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS audit (
  number INTEGER PRIMARY KEY, at REAL NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL, detail TEXT NOT NULL,
  previous TEXT NOT NULL, hash TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS predictions (
  number INTEGER PRIMARY KEY, at REAL NOT NULL, actor TEXT NOT NULL, what TEXT NOT NULL, version INTEGER NOT NULL,
  label TEXT NOT NULL, probability REAL NOT NULL);
CREATE TABLE IF NOT EXISTS tokens (hash TEXT PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS shared (name TEXT PRIMARY KEY, content BLOB NOT NULL);
"""

LAYOUT = 6
"""Of a journal: what one of an older layout lacks is added when it is opened."""

LINE = """
WITH RECURSIVE line(branch, upto) AS (
  SELECT MAX(branch), 9223372036854775807 FROM branches
  UNION ALL
  SELECT b.parent, CASE WHEN line.upto < b.base_step THEN line.upto ELSE b.base_step END
  FROM line JOIN branches b ON b.branch = line.branch
  WHERE b.parent IS NOT NULL
)
"""
"""Prefix of a query over ``line (branch, upto)``: of each branch on the line, its last step that counts."""

ON_LINE = "learnings l JOIN line ON l.branch = line.branch AND l.step <= line.upto"
"""What to select from, behind `LINE`, for the learnings ``l`` that count."""
