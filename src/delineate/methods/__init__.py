"""One file a training method: a Config and build(config, channels, schema) -> Plan."""
