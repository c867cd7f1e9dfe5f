"""What every part of OpenRuntime speaks: models, records, interfaces, errors, events and arrays as bytes."""
