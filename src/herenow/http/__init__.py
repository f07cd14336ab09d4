"""Presence over HTTP: REST for programs, health for supervisors, maintenance for the commands."""
