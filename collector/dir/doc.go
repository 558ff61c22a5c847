// Package dir reads and watches directories of Kubernetes YAML and JSON.
//
// Site makes a collector's site of one. Read and Watch give the raw objects, bodies of Secrets included; the live
// plane of an edge uses them. All three see a directory in the same way:
//
//   - Files named *.yaml, *.yml and *.json are read, below every directory that is not hidden. Names that begin with a
//     dot are hidden. Symbolic links to files are followed, as in a mounted ConfigMap; those to directories are not,
//     but for the root itself.
//   - A file holds any number of documents, and a List any number of objects. Of an object that stands twice, the
//     one in the first file counts (in the order of paths), or the first one of a file.
//   - What cannot be read is unknown, not absent: an object stays as it was last seen while the file, document or
//     directory that it was in cannot be read. It is gone once everything that could hold it has been read without it.
//   - A file that is renamed into place is read at once, one that is written in place as soon as it is quiet, and an
//     object that seems to be gone is looked for again a moment later.
//
// Each limit has a finding that names the file. What the objects mean is left to others.
package dir
