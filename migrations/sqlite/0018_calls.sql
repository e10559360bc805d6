-- A placeholder, so that numbers are contiguous.
SELECT 1;
