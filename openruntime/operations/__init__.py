"""Pure functions of arrays, written once against the Array API standard."""
