"""From the data sets' official downloads to the files that training reads (reference 3.3 to 3.5)."""
