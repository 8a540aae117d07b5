"""What bootstrap.sh does where something is missing: its steps in bash, their helpers in Python."""
