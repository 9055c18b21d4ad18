"""Evaluators: functions in, numbers, tables and pictures out; they never see a model."""
