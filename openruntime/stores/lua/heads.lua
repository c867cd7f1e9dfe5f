#!lua flags=no-writes
return heads()
