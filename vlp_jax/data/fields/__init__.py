"""The host readers of fields: KIND.py reads the fields of core/fields.py's class Kind."""
