# Runs the scripts named in the arguments, all in one process of Node while nothing goes wrong. A case that takes its
# process down, or that stays longer than its deadline, costs that case alone: run.js goes on behind it.
: "${RIG_STATE:=/run/rig}" "${RIG_HOME:=/rig}"
export RIG_STATE
mkdir -p $RIG_STATE
rm -f $RIG_STATE/progress

watch() { # pid: kills it when the case that it runs is overdue
  while sleep 1; do
    index= deadline=
    read -r index deadline 2>/dev/null <$RIG_STATE/progress || continue
    read -r now rest </proc/uptime
    [ "${now%.*}" -le "$deadline" ] && continue
    : >$RIG_STATE/overdue
    kill -KILL "$1"
    return
  done
}

RIG_ENDED=
export RIG_ENDED
while :; do
  node "$RIG_HOME/run.js" "$@" &
  node=$!
  watch $node &
  watcher=$!
  wait $node
  status=$?
  kill $watcher 2>/dev/null
  # Between two cases there is nothing to go on behind.
  [ -f $RIG_STATE/progress ] || exit $status
  RIG_ENDED="ended with status $status"
  [ -f $RIG_STATE/overdue ] && RIG_ENDED="was killed: it took longer than the case's limit"
  rm -f $RIG_STATE/overdue
done
