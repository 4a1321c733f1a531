package sqlstore

import "slices"

// texts lists every statement, with tokens. A statement that is missing here
// fails when it is run; a test compares the list with the constants.
func texts() []string {
	return slices.Concat(
		[]string{
			sqlBuildGet, sqlBuildInsert, sqlBuildByKey, sqlBuildCancel, sqlBuildLogin,
			sqlQueueClaim, sqlQueueWaiting, sqlQueueFinish, sqlQueueGiveBack, sqlQueueTakeBack, sqlQueueUnplaced, sqlTeamRunning,
			sqlAttemptInsert, sqlAttemptRenew, sqlAttemptPlace, sqlAttemptEnd, sqlAttemptEndExpired,
			sqlAttemptRunning, sqlAttemptExpired, sqlAttemptUnclean, sqlAttemptClean, sqlBuildClean,
			sqlFenceGet, sqlStepFence, sqlStepPut, sqlStepList,
			sqlLogReserve, sqlLogRoom, sqlLogCap, sqlLogRead, sqlLogOld, sqlLogDelete, sqlLogExpired,
			sqlTemplateResolve, sqlTemplateGet, sqlTemplateFind, sqlTemplateInsert, sqlTemplateUsers,
			sqlTemplateLock, sqlTagsOfVersion, sqlTagPut, sqlTagCopy, sqlTagCount, sqlTagUsers, sqlBaseUsers, sqlTagDelete, sqlTagDeleteAll,
			sqlVersionGet, sqlVersionInsert, sqlVersionUnreferenced, sqlVersionDelete, sqlVersionDigestUse, sqlVersionReferences,
			sqlSandboxGet, sqlSandboxByKey, sqlSandboxInsert, sqlSandboxMove, sqlSandboxFail, sqlSandboxExpiry, sqlSandboxExpire, sqlSandboxForget,
			sqlTeamGet, sqlTeamByName, sqlTeamInsert, sqlTeamList, sqlTeamSetLimits, sqlTeamLock, sqlTeamLook, sqlTeamPay, sqlLiveUsage, sqlBuildUsage, sqlKeyInsert, sqlKeyByHash, sqlKeyRevoke,
			sqlClaimFence, sqlClaimPut, sqlClaimList, sqlClaimDrop, sqlClaimUse, sqlClaimRelease,
			sqlMarkLock, sqlMarkCondemn, sqlMarkCondemned, sqlMarkAbsolve, sqlMarkRelease,
			sqlCensusBuilds, sqlCensusSandboxes,
			sqlHostPut, sqlHostGet, sqlHostList,
			sqlSandboxPairInsert, sqlBuildPairInsert, sqlVersionPairInsert, sqlVersionUnpaired, sqlVersionPaired,
		},
		logInserts(), pageBuilds.variants(), pagePairedBuilds.variants(), pageTemplates.variants(), pageLabelledTemplates.variants(),
		pageSandboxes.variants(), pagePairedSandboxes.variants(), pageKeys.variants(),
	)
}
