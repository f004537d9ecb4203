"""Configuration: three types by what they may decide, loaded from one TOML file a program."""
