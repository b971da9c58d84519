"""Jobs: what they may ask for, the folder and the processes of each, its log, its end."""
