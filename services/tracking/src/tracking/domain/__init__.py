"""The rules of tracking, without I/O: what scans add up to, what is news, what is late."""
