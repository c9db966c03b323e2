#!/bin/sh
# Run once by PostgreSQL's image, when its data folder is new: the application is no superuser.
set -e
psql --set=password="$DATABASE_PASSWORD" --username=postgres <<'SQL'
CREATE ROLE nightshift LOGIN NOSUPERUSER CREATEDB NOCREATEROLE PASSWORD :'password';
CREATE DATABASE prefect OWNER nightshift;
SQL
