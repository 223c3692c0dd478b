module cluster/pause

go 1.26

tool cluster/pause
