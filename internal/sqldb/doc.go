// Package sqldb is what tables of ours need to live in somebody's SQL database: the differences between databases as
// small values, a transaction as a one-method interface, schemas with a version, and errors told apart.
//
// It depends on no driver. The databases are PostgreSQL, MySQL with MariaDB, and SQLite.
package sqldb
