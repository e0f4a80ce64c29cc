# bash completion for clawfs: asks the program itself, so verbs and options are those of the release that is installed.

# _clawfs_table KIND [FIELD2]: the lines of `clawfs help --table` of this kind.
_clawfs_table() {
	"$_clawfs_program" help --table 2>/dev/null | awk -F '\t' -v kind="$1" -v second="${2-}" '$1 == kind && (second == "" || $2 == second)'
}

# _clawfs_reply LINES: those that begin with the word under the cursor.
_clawfs_reply() {
	local line

	while IFS= read -r line; do
		[[ -n $line && $line == "$_clawfs_cur"* ]] && COMPREPLY+=("$line")
	done <<<"$1"
}

# _clawfs_files -d|-f: directories or all files.
_clawfs_files() {
	local line

	while IFS= read -r line; do
		COMPREPLY+=("$line")
	done < <(compgen "$1" -- "$_clawfs_cur")
	compopt -o filenames 2>/dev/null
}

# The verb among the words before the cursor, of one word or two, and the number of the word behind it; empty while it is not complete.
_clawfs_find_verb() {
	local first=${_clawfs_words[1]-} second=${_clawfs_words[2]-}

	_clawfs_verb='' _clawfs_first=0
	if [[ $_clawfs_at -gt 2 && -n $(_clawfs_table verb "$first $second") ]]; then
		_clawfs_verb="$first $second" _clawfs_first=3
	elif [[ $_clawfs_at -gt 1 && -n $(_clawfs_table verb "$first") ]]; then
		_clawfs_verb=$first _clawfs_first=2
	fi
}

# Verbs, or what follows the first word of a verb of two.
_clawfs_verbs() {
	local first=${_clawfs_words[1]-}

	if [[ $_clawfs_at -eq 1 ]]; then
		_clawfs_reply "$(_clawfs_table verb | awk -F '\t' '$2 != "mount.clawfs" { sub(/ .*/, "", $2); print $2 }' | sort -u)"
		_clawfs_reply $'help\n--help\n--version'
	elif [[ $_clawfs_at -eq 2 ]]; then
		_clawfs_reply "$(_clawfs_table verb | awk -F '\t' -v first="$first " 'index($2, first) == 1 { print substr($2, length(first) + 1) }')"
	fi
}

# Words of -o: the last one of a list.
_clawfs_list() {
	local before='' list=$_clawfs_cur w

	[[ $list == *,* ]] && before=${list%,*},
	list=${list##*,}
	while IFS= read -r w; do
		[[ $w == "$list"* ]] && COMPREPLY+=("$before$w")
	done < <(_clawfs_table word | awk -F '\t' '{ print $2 ($3 == "" ? "" : "=") }')
	compopt -o nospace 2>/dev/null
}

_clawfs_options() {
	_clawfs_reply "$(_clawfs_table option "$_clawfs_verb" | awk -F '\t' '{ print "--" $3; if ($4 != "") print "-" $4 }')"
}

# What the operand under the cursor is called in the usage line, when options and their values are passed over.
_clawfs_operand() {
	local with_value i n=0 w skip=0 names

	with_value=" $(_clawfs_table option "$_clawfs_verb" | awk -F '\t' '$5 != "" { printf "--%s -%s ", $3, $4 }')"
	for ((i = _clawfs_first; i < _clawfs_at; i++)); do
		w=${_clawfs_words[i]}
		if ((skip)); then
			skip=0
		elif [[ $w == -?* ]]; then
			[[ $with_value == *" $w "* ]] && skip=1
		else
			n=$((n + 1))
		fi
	done
	((skip)) && return
	read -ra names <<<"$(_clawfs_table verb "$_clawfs_verb" | cut -f 3)"
	echo "${names[n]-}"
}

_clawfs_complete() {
	local before=${_clawfs_words[_clawfs_at - 1]}

	_clawfs_find_verb
	if [[ -z $_clawfs_verb ]]; then
		_clawfs_verbs
		return
	fi
	if [[ $before == -o || $before == --options ]]; then
		_clawfs_list
		return
	fi
	if [[ $_clawfs_cur == -* ]]; then
		_clawfs_options
		return
	fi
	case $(_clawfs_operand) in
	*MOUNTPOINT)
		_clawfs_reply "$(findmnt -rno TARGET -t fuse.clawfs 2>/dev/null)"
		_clawfs_files -d
		;;
	*DIR) _clawfs_files -d ;;
	PATH | SRC | DST | '[VALUE]') _clawfs_files -f ;;
	esac
}

_clawfs() {
	local _clawfs_program=$1 _clawfs_words _clawfs_at _clawfs_cur _clawfs_verb _clawfs_first before_break i

	# Words as blanks part them: readline parts them at = and : as well.
	read -ra _clawfs_words <<<"${COMP_LINE:0:COMP_POINT}"
	[[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]] && _clawfs_words+=('')
	_clawfs_at=$((${#_clawfs_words[@]} - 1))
	_clawfs_cur=${_clawfs_words[_clawfs_at]}
	COMPREPLY=()
	_clawfs_complete
	before_break=${_clawfs_cur%"${_clawfs_cur##*[=:]}"}
	for i in "${!COMPREPLY[@]}"; do
		COMPREPLY[i]=${COMPREPLY[i]#"$before_break"}
	done
}

complete -F _clawfs clawfs
