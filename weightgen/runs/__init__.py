"""Run folders, and what each command does in one."""
